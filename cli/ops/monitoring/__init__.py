"""Files for Prometheus, Alertmanager, Grafana and log shippers, made from one table of alerts and one of panels."""
