"""Runs that TRL drives: `local_sft`, `local_dpo`, `local_rl` on its SFTTrainer, DPOTrainer and GRPOTrainer.

Rows, masks, pairs, verifiers and settings are those of `sft`, `dpo` and `rl`; TRL takes the steps, in its own order of rows, and
its checkpoints are what a run goes on from. Importing this loads no vendor package; a run that begins does. Reading order:
settings → sft → model → training → metric_names → processes.
"""
