"""`manage.py demo`: real nodes, real kills, and a comparison of every acknowledged command at the end."""
