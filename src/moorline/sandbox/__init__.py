"""An offline stand-in for every service: stateful, as strict as the vendor, and able to misbehave on request.

``moorline.sandbox.server`` has the application and how to run it; nothing is loaded here.
"""
