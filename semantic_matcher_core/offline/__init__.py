"""The nodes' work on recorded images: bags, videos and image files, through the same streams, into one MCAP file."""
