"""Building ume-nano: data, tokenizer, training, evaluation."""
