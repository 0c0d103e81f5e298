"""What test_browser.py is made of: a server, visitors and an auditor."""
