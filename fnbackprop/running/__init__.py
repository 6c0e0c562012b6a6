"""`fnbackprop run SCRIPT`: an unchanged script, with hand-written gradients in the place of JAX's."""
