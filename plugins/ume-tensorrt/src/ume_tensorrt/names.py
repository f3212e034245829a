"""Where built engines stand in an exported directory."""

NAME = "engines.json"
FOLDER = "tensorrt"
