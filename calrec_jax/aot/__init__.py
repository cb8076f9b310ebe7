"""What programs cost on TPUs that are not at hand.

The TPU compiler runs on any Linux host. `topology` describes the chips,
`programs` lowers what a recipe runs there, `matrix_flops` counts a traced
program, `hlo` and `collectives` read a compiled one, `costs` joins them into a
record with the bound on FLOP utilisation, and `table` prints it.
"""
