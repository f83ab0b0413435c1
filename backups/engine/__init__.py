"""How a restore point comes to be, is given up for lost, and goes: each module has one of these."""
