"""Costs of programs on TPUs, without a TPU.

The TPU compiler runs on any Linux host. `topology` describes the chips,
`programs` traces the programs of a recipe for them, `matrix_flops` counts a
traced program, `hlo` and `collectives` analyse a compiled one, `costs` combines
them into a record with a bound on FLOP utilisation, and `table` prints it.
"""
