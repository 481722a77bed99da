"""The web console: pages for administrators who do not ssh. All that it shows and does it asks of the admin API, as who has signed in."""
