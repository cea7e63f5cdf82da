# Written by scripts/services.py (`make services`); change the services, not this file.

from moorline.services.business.github import GitHub as GitHub
from moorline.services.business.hubspot import HubSpot as HubSpot
from moorline.services.business.meta import Meta as Meta
from moorline.services.business.microsoft_graph import MicrosoftGraph as MicrosoftGraph
from moorline.services.business.slack import Slack as Slack
from moorline.services.business.x import X as X
from moorline.services.business.zoom import Zoom as Zoom
from moorline.services.email.sendgrid import SendGrid as SendGrid
from moorline.services.payments.square import Square as Square
from moorline.services.payments.stripe import Stripe as Stripe

__all__ = ["GitHub", "HubSpot", "Meta", "MicrosoftGraph", "SendGrid", "Slack", "Square", "Stripe", "X", "Zoom"]
