"""What training shares between teachers and students; needs torch."""
