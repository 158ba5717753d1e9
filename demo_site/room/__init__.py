"""The demo to click through: nodes side by side, killed, paused, cut off and brought back, while writes go on."""
