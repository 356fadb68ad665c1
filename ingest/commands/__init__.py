"""What can a person ask and decide? The commands for operators."""
