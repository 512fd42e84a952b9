"""The networks, in the order of the paper: encoders, recurrent state-space model, heads, actor and critic."""
