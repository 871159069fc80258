"""What is read of the rows of a lane, wherever it is: values that travel, sums that come back."""
