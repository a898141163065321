"""One bench a connector and target: how the contract suite makes accounts there, and looks at them from the side."""
