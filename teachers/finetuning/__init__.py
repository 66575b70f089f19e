"""Making teachers: fine-tuning and pretraining."""
