"""The backward pass: jaxprs, the registry of rules, the engine that walks forward and backward."""
