"""What a recipe needs on devices that are not here."""
