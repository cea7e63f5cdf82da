# Written by scripts/services.py (`make services`); change the services, not this file.

from moorline.services.business.github import GitHub as GitHub
from moorline.services.email.sendgrid import SendGrid as SendGrid
from moorline.services.payments.square import Square as Square
from moorline.services.payments.stripe import Stripe as Stripe

__all__ = ["GitHub", "SendGrid", "Square", "Stripe"]
