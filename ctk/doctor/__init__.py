"""What keeps ctk from recording here."""
