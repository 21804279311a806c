"""The label curve: accuracy by the number of labelled images to train on, and the law that it follows."""
