"""STA's finetuning on the tiny model: what one window in all heads loses, and what training brings back."""
