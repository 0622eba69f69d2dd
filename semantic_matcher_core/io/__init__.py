"""Reading and writing: images, video, bags, feature files. Nothing is imported until it is used."""
