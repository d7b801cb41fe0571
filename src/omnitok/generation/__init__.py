"""Generation: a trained prior and a tokenizer -> codes or latents -> pixels."""
