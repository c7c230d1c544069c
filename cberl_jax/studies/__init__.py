"""What a person launches: a training, a sweep, an ablation, a benchmark."""
