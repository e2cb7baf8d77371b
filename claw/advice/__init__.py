"""What laws recommend and what a table says: guide, recommendations, findings, data sheet, LaTeX. No torch, no matplotlib."""
