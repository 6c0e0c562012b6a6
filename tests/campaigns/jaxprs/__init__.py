"""The jaxprs that fnbackprop emits, recorded for many programs and compared between two revisions."""
