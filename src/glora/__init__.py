"""GLoRA: adapt a frozen pretrained network by support tensors found layer by layer, then fold them in."""
