"""Files of a log, wherever they lie and however they are packed."""
