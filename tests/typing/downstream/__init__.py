"""Programs of a user, one a package: ``tools/dev build`` runs and type-checks them on the wheels."""
