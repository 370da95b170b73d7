"""What the HTTP services share: application factory, caller, errors, streams."""
