"""Files of pretrained models as others store them; knows no model of ours."""
