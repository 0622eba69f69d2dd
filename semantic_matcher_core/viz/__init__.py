"""Pictures of results: matches drawn over two images, and a report as one HTML page."""
