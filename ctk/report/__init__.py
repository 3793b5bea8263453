"""For looking: the document of one span, and the page that shows it."""
