"""Reading and writing: images, video, bags, feature files. Nothing here computes, and nothing is imported until used."""
