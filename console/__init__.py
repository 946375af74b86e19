"""What pages and commands are made of: lists, forms, buttons, labels, answers. Knows no model of ours."""
