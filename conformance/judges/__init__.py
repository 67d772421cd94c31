"""Those who judge an object or a Bundle: each returns what it finds wrong."""
