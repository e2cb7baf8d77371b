"""Load a language model by name, folder, GGUF or hub id; what it is made of, and where its weights come from."""
