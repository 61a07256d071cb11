"""HTML pages in one file: a style for light, dark and print, tables, and drawings as inline SVG."""
