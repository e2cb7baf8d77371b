"""What laws recommend and what a table says, in words: guide, recommendations, findings, data sheet, LaTeX. No torch, no matplotlib."""
