"""A chaos run: four real nodes, two faults at the same time, and a comparison of what both sides of each task say.

``python -m tests.chaos --minutes 30 --seed 1`` makes *episodes* of four new nodes each, and in each episode *rounds*:

1. *Disturb.* Tasks are submitted in all directions, cancelled, declined, executed, failed (`workload`), while pairs of
   faults come and go (`faults`): nodes are killed, paused, drained, connections are cut (`proxy`), disks are full,
   read-only or fail to sync, clocks are set (`child`).
2. *Settle.* The faults end. Without any ``reload`` or ``retry`` every record has to become final within
   `tests.chaos.run.LIMIT_SECONDS`, and every delivery has to be made.
3. *Audit* (`audit`). Both sides of each task are compared, and with what the commands did (`journal`).

Every choice comes from one seed, which is printed. What the nodes make of it depends on the machine's timing too, so
the same seed makes the same plan, and not always the same finding. On a finding the run ends with exit code 1, prints
both records, both histories and the timeline of the faults, and keeps the logs and the state directories.

Nothing is left behind, not even by a run that is killed: a process of its own (`sweeper`) outlives the run, and ends
what the run started. All traffic is on loopback.
"""
