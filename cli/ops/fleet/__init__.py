"""Many hosts over ssh: what each of them is, and changes of all of them, made host by host with the commands of a host."""
