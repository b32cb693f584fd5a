"""What happens when networks of several libraries run under the transforms of JAX: see scripts/make_raw_jax_table.py."""
