"""What scorecards of one or two bundles say, as tables for a terminal and as one HTML page."""
