"""The plugins that come with a gateway, one module each."""
