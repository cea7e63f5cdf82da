# Written by scripts/services.py (`make services`); change the services, not this file.

from moorline.services.analytics.amplitude import Amplitude as Amplitude
from moorline.services.analytics.google_analytics import GoogleAnalytics as GoogleAnalytics
from moorline.services.analytics.mixpanel import Mixpanel as Mixpanel
from moorline.services.analytics.segment import Segment as Segment
from moorline.services.auth.auth0 import Auth0 as Auth0
from moorline.services.auth.clerk import Clerk as Clerk
from moorline.services.auth.firebase_auth import FirebaseAuth as FirebaseAuth
from moorline.services.auth.supabase_auth import SupabaseAuth as SupabaseAuth
from moorline.services.business.github import GitHub as GitHub
from moorline.services.business.hubspot import HubSpot as HubSpot
from moorline.services.business.meta import Meta as Meta
from moorline.services.business.microsoft_graph import MicrosoftGraph as MicrosoftGraph
from moorline.services.business.salesforce import Salesforce as Salesforce
from moorline.services.business.slack import Slack as Slack
from moorline.services.business.slack_webhook import SlackWebhook as SlackWebhook
from moorline.services.business.x import X as X
from moorline.services.business.zendesk import Zendesk as Zendesk
from moorline.services.business.zoom import Zoom as Zoom
from moorline.services.email.mailgun import Mailgun as Mailgun
from moorline.services.email.mailgun_inbound import MailgunInbound as MailgunInbound
from moorline.services.email.resend import Resend as Resend
from moorline.services.email.sendgrid import SendGrid as SendGrid
from moorline.services.email.sendgrid_inbound import SendGridInbound as SendGridInbound
from moorline.services.email.ses import SES as SES
from moorline.services.monitoring.datadog import Datadog as Datadog
from moorline.services.monitoring.logrocket import LogRocket as LogRocket
from moorline.services.monitoring.new_relic import NewRelic as NewRelic
from moorline.services.monitoring.sentry import Sentry as Sentry
from moorline.services.payments.adyen import Adyen as Adyen
from moorline.services.payments.paypal import PayPal as PayPal
from moorline.services.payments.square import Square as Square
from moorline.services.payments.stripe import Stripe as Stripe
from moorline.services.push.fcm import FCM as FCM
from moorline.services.push.onesignal import OneSignal as OneSignal
from moorline.services.push.sns_push import SNSPush as SNSPush
from moorline.services.sms.sns import SNS as SNS
from moorline.services.sms.twilio import Twilio as Twilio
from moorline.services.sms.vonage import Vonage as Vonage
from moorline.services.sms.vonage_sms import VonageSMS as VonageSMS
from moorline.services.storage.gcs import GCS as GCS
from moorline.services.storage.r2 import R2 as R2
from moorline.services.storage.s3 import S3 as S3

__all__ = [
    "FCM",
    "GCS",
    "R2",
    "S3",
    "SES",
    "SNS",
    "Adyen",
    "Amplitude",
    "Auth0",
    "Clerk",
    "Datadog",
    "FirebaseAuth",
    "GitHub",
    "GoogleAnalytics",
    "HubSpot",
    "LogRocket",
    "Mailgun",
    "MailgunInbound",
    "Meta",
    "MicrosoftGraph",
    "Mixpanel",
    "NewRelic",
    "OneSignal",
    "PayPal",
    "Resend",
    "SNSPush",
    "Salesforce",
    "Segment",
    "SendGrid",
    "SendGridInbound",
    "Sentry",
    "Slack",
    "SlackWebhook",
    "Square",
    "Stripe",
    "SupabaseAuth",
    "Twilio",
    "Vonage",
    "VonageSMS",
    "X",
    "Zendesk",
    "Zoom",
]
