"""The exported disc encoder: its two graphs' inputs, its manifest, and the engines' shared part."""
