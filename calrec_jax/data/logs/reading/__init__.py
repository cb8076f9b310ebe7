"""Files of any format as blocks of named columns."""
