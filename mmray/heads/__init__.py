"""A linear head over frozen encoders: features of labelled records, training, and scores by modality."""
