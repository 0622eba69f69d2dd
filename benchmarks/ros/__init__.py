"""What the nodes cost beside the networks, how they behave under load, and whether they keep memory.

Needs a built workspace: ``tools/env.sh`` sets it up.
"""
