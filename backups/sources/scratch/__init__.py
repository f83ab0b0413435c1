"""Private servers for drills: started in an empty folder, reachable by nobody else, ended with everything in them."""
