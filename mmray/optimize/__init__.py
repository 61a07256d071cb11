"""From labelled shards and frozen encoders to a bundle: features, head, scorecard, export."""
